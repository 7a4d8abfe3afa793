// Browsers start no Worker from the file system, where the search has to work too: there, a hidden frame takes its place.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      const tell = (target, data) => target.dispatchEvent(new MessageEvent("message", { data }));
      const load = (source) =>
        new Promise((resolve, reject) => {
          const script = frame.contentDocument.createElement("script");
          Object.assign(script, { src: source, onload: resolve, onerror: reject });
          frame.contentDocument.head.append(script);
        });
      inside.importScripts = (...sources) => sources.reduce((done, source) => done.then(() => load(source)), Promise.resolve());
      inside.postMessage = (data) => tell(this, data);
      const ready = load(url);
      this.postMessage = (data) => void ready.then(() => tell(inside, data));
      this.terminate = () => frame.remove();
      ready.catch((error) => this.dispatchEvent(new ErrorEvent("error", { error })));
    }
  };

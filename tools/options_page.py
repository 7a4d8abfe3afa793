"""Write docs/options.md from the tables of options.

python tools/options_page.py
"""

from pathlib import Path

from backbones.train.options.page import page

if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("docs", "options.md").write_text(page(), encoding="utf-8")

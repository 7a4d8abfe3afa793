"""The site: its explorer, its pages of families and its API pages, written from the registry and from measurements."""

"""The package's version, which meson.build reads too."""

__version__ = "0.2.0"

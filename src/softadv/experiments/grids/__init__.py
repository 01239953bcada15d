"""The grids that come with softadv, as TOML files."""

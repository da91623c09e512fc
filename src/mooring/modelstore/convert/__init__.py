"""Model folders of other formats, turned into what an engine of the base install can open."""

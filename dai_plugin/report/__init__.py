"""Tables and figures (extra `report`)."""

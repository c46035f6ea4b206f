"""`shapes`: the embedded dataset. Scenes are drawn, never downloaded."""

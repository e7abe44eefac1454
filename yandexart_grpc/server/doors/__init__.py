"""The protocols the server speaks."""

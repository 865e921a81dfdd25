"""The embedded world, second edition: what its scenes are asked, told and changed into."""

"""The embedded world: scenes, their captions and questions, what they are changed into."""

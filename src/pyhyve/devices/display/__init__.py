"""Graphics cards, and pictures of what they show."""

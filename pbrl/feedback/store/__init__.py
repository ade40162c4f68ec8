"""Where questions and answers are kept."""

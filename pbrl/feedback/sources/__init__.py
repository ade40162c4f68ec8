"""Who answers: one file per feedback source."""

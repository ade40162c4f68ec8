"""Vision-language models that answer questions: requests, servers, what was paid for, and ways of judging."""

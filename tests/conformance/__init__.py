"""Requests to talkwire and to vLLM's own OpenAI HTTP server, and how the answers are compared."""

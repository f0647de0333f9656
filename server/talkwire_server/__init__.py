"""The talkwire server: vLLM's async engine behind ChatService and ModelService."""

"""Who may come in: certificates, tokens, and the guard who asks for them. Knows no engine."""

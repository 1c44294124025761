"""The gateway's page where a user grants it access to an upstream (`backendAuth.oauthAuthorizationCode`)."""

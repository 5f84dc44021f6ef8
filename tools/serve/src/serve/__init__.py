"""Model servers: `serve.client` for programs that need one, `serve.engine` for how each is started."""

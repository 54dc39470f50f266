"""The vLLM engine and the plugin that scores inside vLLM."""

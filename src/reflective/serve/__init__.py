"""The server: the OpenAI API over one engine that all requests share, and a page that shows trajectories being judged.

    schemas     what a client may send
    fields      every field of the API: honoured, ignored or refused
    prompts     a request's messages and options as a problem, a strategy and settings
    session     one request on its way through the engine
    admission   who is let in, and in which order
    writing     a question on its way to an answer, in terms of no API
    streaming   an answer in the objects of an API: `chat` and `responses`
    faults      errors as OpenAI's error object
    doors       limits and headers around every request
    app         the routes
    process     the process: sockets, signals, the end

Nothing here is imported by `import reflective`.
"""

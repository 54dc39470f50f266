"""Kind "code": programs, graded by running their tests in the sandbox."""

from hypothesis import settings

# The same examples in every run, no timing, and nothing kept on disk between runs.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")

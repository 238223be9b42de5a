"""`python -m benchmarks.published`, see `running`."""

from benchmarks.published.running import main

if __name__ == "__main__":
    main()

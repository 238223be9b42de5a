"""`python -m excise`: the command line, where the script is not on the path."""

from excise.cli.main import run

if __name__ == "__main__":
    run()

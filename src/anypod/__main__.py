"""`python -m anypod` is `anypod`."""

from anypod.cli import run

if __name__ == "__main__":
    run()

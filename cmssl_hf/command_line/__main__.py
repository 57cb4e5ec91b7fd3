"""`python -m cmssl_hf.command_line`, and `accelerate launch -m cmssl_hf.command_line`, for `cmssl-hf`."""

from .main import main


if __name__ == "__main__":
    main()

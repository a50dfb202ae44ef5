"""The one exception type for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake the user can mend; the message says what is wrong, where, and what to do."""

    def __str__(self) -> str:
        """Return the message in one line, whatever the file that it quotes holds."""
        return " ".join(super().__str__().splitlines())

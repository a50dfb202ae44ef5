"""The one exception type for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake the user can mend: a bad option, a missing or malformed file, an unknown model.

    The message says what is wrong, where, and what to do, in one line. ``main.py`` prints it as
    ``error: <message>`` and ends with status 2, without a traceback.
    """

    def __str__(self) -> str:
        """Return the message in one line, whatever the file that it quotes holds."""
        return " ".join(super().__str__().splitlines())

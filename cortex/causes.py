"""What the system said at the bottom of an error, such as "Connection refused".

Libraries wrap it, and say in its stead that every attempt has failed; an operator is helped by
the reason alone. Nothing is decided here by what it says.
"""

import os
import socket
import ssl


def bottom(error: BaseException) -> str:
    """The reason, without numbers: of a group the first one's."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; SSL_CERT_FILE may name its authority"
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS: {error.reason}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    if isinstance(error, BaseExceptionGroup):
        return bottom(error.exceptions[0])
    below = error.__cause__ or error.__context__
    return bottom(below) if below is not None else str(error) or type(error).__name__

"""One text that holds JSON and typed arrays: small, and safe inside HTML whatever it contains."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 4
_KINDS = {"float32": "Float32Array", "int32": "Int32Array", "uint8": "Uint8Array"}


def pack(content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """base64(gzip(length of header, header, arrays)), all little-endian.

    The header is JSON: `content` and where each array lies. base64 has no character that HTML
    could take for markup, so no data can end the script element that it stands in.
    `html/payload.js` reads it.

    Raises:
        KeyError: an array that is not float32, int32 or uint8.
        ValueError: NaN or infinity in `content`.
    """
    places, body = {}, bytearray()
    for name, array in arrays.items():
        places[name] = [_KINDS[array.dtype.name], len(body), int(array.size)]
        body += np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        body += b"\0" * (-len(body) % _ALIGNMENT)
    # ASCII: a lone surrogate from a broken token must not stop the file from being written.
    header = json.dumps({**content, "arrays": places}, allow_nan=False, separators=(",", ":"))
    header += " " * (-len(header) % _ALIGNMENT)
    start = len(header).to_bytes(_ALIGNMENT, "little")
    return base64.b64encode(
        gzip.compress(start + header.encode("ascii") + bytes(body), 6, mtime=0)
    ).decode("ascii")


def rounded(values: NDArray[Any]) -> NDArray[np.float32]:
    """float32 with 12 bits of mantissa (relative error below 2^-13), which compresses well."""
    bits = values.astype(np.float32).view(np.uint32)
    finite = np.isfinite(values)
    return np.where(finite, (bits + 0x400) & 0xFFFFF800, bits).astype(np.uint32).view(np.float32)

"""One photo in and out: decoding, encoding, chroma upsampling, metadata, 16-bit formats.

Public: `decode.decode` and `decode.Photo`, `encode.write_photo`, `formats`. Nothing here knows folders, models or
engines.
"""

"""One photo in and out: decoding, encoding, chroma upsampling, metadata, formats of 16 bits.

Public: `decode.decode`, `decode.Photo`, `encode.write_photo`. Nothing here knows folders, models or engines.
"""

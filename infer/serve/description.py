"""Parameters of a request, and the other parts of /openapi.json that no code says."""

from typing import Any, Literal

from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from infer.folder.options import ColoringOptions
from infer.photo.formats import MOST_STRENGTH, OTHER_NAMES, QUALITY, ColorPhotos, ProfileUse, Resolution
from infer.serve.form import FIELD


class Options(BaseModel):
    """Options of `cgan-infer PHOTO` that a request may have, in its query."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["same", "jpg", "jpeg", "png", "webp", "tif", "tiff"] = Field(
        default="same",
        description="Format of the picture; same keeps JPEG, PNG, WebP, TIFF and BMP, and gives PNG for others.",
    )
    quality: int = Field(default=QUALITY, ge=1, le=100, description="Quality of JPEG and WebP.")
    strength: float = Field(
        default=1.0, ge=0, le=MOST_STRENGTH, description="Factor of the colours; luma and hue stay."
    )
    profile: ProfileUse = Field(
        default=ProfileUse.CONVERT, description="Convert RGB profiles other than sRGB, or keep them."
    )
    color_photos: ColorPhotos = Field(
        default=ColorPhotos.RECOLOR,
        description="A photo in colour: colour it anew, answer 204, or answer with it unchanged.",
    )
    resolution: Resolution = Field(
        default=Resolution.ORIGINAL, description="Size and luma of the photo, or the raw output of the network."
    )
    mark: bool = Field(default=True, description="Say in XMP that a model has coloured the picture, and which.")

    @property
    def written(self) -> str:
        """The format by its name in `infer.photo.formats.WRITE_FORMATS`, or "same"."""
        return OTHER_NAMES.get(self.format, self.format)

    def coloring(self) -> ColoringOptions:
        """Return them as those of a folder run."""
        return ColoringOptions(**self.model_dump(exclude={"format"}))


class Refused(BaseModel):
    """Answer without a picture."""

    error: str = Field(description="One line: what was found, what was expected, what to do.")


class Ready(BaseModel):
    """Answer of a server that colours."""

    status: Literal["ready"]
    model: str = Field(description="File name of the model.")
    engine: str = Field(description="Engine and device that run it.")


def _header(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": kind}}


BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"type": "object", "required": [FIELD], "properties": {FIELD: BINARY["schema"]}, "additionalProperties": False}
NOTES = {"X-Cgan-Notes": _header("JSON array of texts: what was left out or changed.", "string")}
BUSY = {"model": Refused, "headers": {"Retry-After": _header("Seconds after which to try again.", "integer")}}

COLOR: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "The picture.", "headers": NOTES, "content": {"image/*": BINARY}},
        204: {"description": "No picture: a colour photo, and color_photos is skip.", "headers": NOTES},
        400: {"model": Refused, "description": "Wrong query, no body, chunked body, or no form with one photo."},
        408: {"model": Refused, "description": "The body came too slowly."},
        413: {"model": Refused, "description": "Too many bytes or pixels."},
        415: {"model": Refused, "description": "Not a photo of a format that is read."},
        422: {"model": Refused, "description": "Damaged, or it cannot be written in this format."},
        503: BUSY | {"description": "Too many photos wait, the time is over, or the server is about to end."},
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "image/*": BINARY,
                "application/octet-stream": BINARY,
                "multipart/form-data": {"schema": FORM},
            },
        }
    },
}
HEALTHZ: dict[str, Any] = {
    "response_model": Ready,
    "responses": {503: BUSY | {"description": "The server is about to end."}},
}
METRICS: dict[str, Any] = {
    "response_class": PlainTextResponse,
    "responses": {200: {"description": "Figures in Prometheus's text format."}},
}

PLAIN_PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>cgan</title>
<h1>cgan colours gray photos</h1>
<form action="color" method="post" enctype="multipart/form-data">
<p><label>Photo <input type="file" name="{FIELD}" accept="image/*" required></label> <button>Colour</button></p>
</form>
<p>From a shell: <code>curl -F {FIELD}=@gray.jpg http://HOST:PORT/color -o color.jpg</code></p>
<p>All options: <a href="openapi.json">openapi.json</a></p>
</html>
"""
"""The page at / where no other is built."""

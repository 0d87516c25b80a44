"""Upload of a verified artefact to the Hugging Face Hub: the file, its sidecar and a model card, in one commit."""

from dataclasses import dataclass
from pathlib import Path

from cgan.checkpoint_record import described
from cgan.errors import GateError, UserError
from cgan.hub import SCHEME, SECONDS, HubAddress, hub_errors
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, sidecar_path
from export.artefact import Artefact

CARD = "README.md"
"""The model card, which the Hub shows."""


@dataclass(frozen=True)
class Destination:
    """A repository to upload to."""

    address: HubAddress
    is_new: bool
    """True if it has to be made."""
    has_card: bool


def find_destination(given: str) -> Destination:
    """Return the repository to upload to. Nothing is changed, so that this can precede a long export.

    Args:
        given: hf://owner/name.

    Raises:
        UserError: it is another address, or there is no token or no right to see the repository.
        GateError: the Hub cannot be reached, or fails.
    """
    address = HubAddress.parse(given)
    if address.file or address.revision:
        raise UserError(f"--push {given}: found a revision or a file, expected {SCHEME}{address.repository}")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if get_token() is None:
        raise UserError(f"--push {given}: found no token of the Hub; log in with hf auth login, or set HF_TOKEN")
    with hub_errors(f"--push {given}"):
        try:
            info = HfApi().model_info(address.repository, timeout=SECONDS)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return Destination(address, is_new=True, has_card=False)
    return Destination(address, False, any(sibling.rfilename == CARD for sibling in info.siblings or ()))


def push(artefact: Artefact, destination: Destination) -> str:
    """Upload an artefact with its sidecar, and a model card if there is none, and return the address of the new file.

    A missing repository is made, private.

    Raises:
        UserError: there is no right to write.
        GateError: the artefact was not compared with its model, or the Hub cannot be reached or fails.
    """
    if not artefact.sidecar.verification.get("verified"):
        reason = artefact.sidecar.verification.get("reason")
        raise GateError(f"{artefact.path}: not uploaded, because it was not compared with its model ({reason})")
    from huggingface_hub import CommitOperationAdd, HfApi

    address, name = destination.address, artefact.path.name
    files: dict[str, Path | bytes] = {path.name: path for path in (artefact.path, sidecar_path(artefact.path))}
    if not destination.has_card:
        files[CARD] = model_card(artefact, address).encode()
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()]
    with hub_errors(f"--push {address.given}"):
        if destination.is_new:
            HfApi().create_repo(address.repository, private=True, exist_ok=True)
        commit = HfApi().create_commit(address.repository, operations, commit_message=f"Add {name}")
    return address.at(commit.oid, name)


def model_card(artefact: Artefact, address: HubAddress) -> str:
    """Return a model card in Markdown, with the metadata that the Hub reads as YAML."""
    from huggingface_hub import ModelCardData

    suffix = artefact.path.suffix.lstrip(".")
    data = ModelCardData(library_name="cgan", pipeline_tag="image-to-image", tags=["image-colorization", "gan", suffix])
    spec, verification = artefact.sidecar.spec, artefact.sidecar.verification
    return f"""---
{data.to_yaml()}
---
# {address.repository.partition("/")[2]}

Colours grayscale photos, with their own luma and size. The colours are guesses.

    cgan-infer folder PHOTOS colored --model {SCHEME}{address.repository}

| | |
| --- | --- |
| network | {spec.model} of base width {spec.base_width}, {spec.parameters:,} parameters, {spec.precision} |
| input | `{INPUT_CONTRACT["name"]}`, N x 1 x H x W, float32 in [0, 1], {INPUT_CONTRACT["meaning"]} |
| output | `{OUTPUT_CONTRACT["name"]}`, N x 3 x H x W, float32 in [0, 1], {OUTPUT_CONTRACT["meaning"]} |
| size | {spec.render_size} x {spec.render_size} pixels{", or any multiples of 16" if spec.dynamic_size else ""} |
| made from | {described(artefact.sidecar.build.get("checkpoint"))} |
| compared with | {verification["reference"]}; the figures are in `{sidecar_path(artefact.path).name}` |

The training photos, the licence and the limits of the model are for its owner to add here.
"""

/** Photos on their way to the page: dropped, chosen or pasted; and the reasons for which one is refused. */

/** Largest photo. Colouring takes up to 9 bytes of memory a pixel, and canvases have limits of their own. */
const MAX_PIXELS = 2 ** 26;
const MAX_SIDE = 16_384;

/** Names of photos, also of formats that few browsers read, and to which some give no type. */
const PHOTO_NAME = /\.(jpe?g|png|webp|gif|bmp|avif|hei[cf]|tiff?|jxl|jp2|dng|cr[23]|nef|arw|orf|rw2|raf|psd)$/i;

/**
 * Call `take` with the photos that are dropped anywhere, chosen in `chooser` or pasted.
 *
 * @param say shows a line if there is none.
 */
export function receive(chooser: HTMLInputElement, take: (files: File[]) => void, say: (text: string) => void): void {
  const body = document.body;
  chooser.addEventListener("change", () => {
    take([...(chooser.files ?? [])]);
    chooser.value = ""; // the same photo can be chosen again
  });
  chooser.addEventListener("keydown", (event) => {
    if (event.key === "Enter") chooser.click(); // it looks like a button, but some browsers only take the space bar
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault(); // otherwise the browser leaves the page to show the file
    body.classList.toggle("dragging", event.dataTransfer?.types.includes("Files") ?? false);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) body.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    body.classList.remove("dragging");
    dropped([...(event.dataTransfer?.items ?? [])]).then(
      (files) => (files.length ? take(files) : say("Found no photo there. Drop photos, or a folder with photos.")),
      (error: Error) => say(`The folder cannot be read: ${error.message}. Choose the photos in it.`),
    );
  });
}

/** Return dropped files, and the photos in dropped folders. */
async function dropped(items: DataTransferItem[]): Promise<File[]> {
  const parts = items.map((item) => ({ file: item.getAsFile(), entry: item.webkitGetAsEntry() })); // gone after an await
  const found = parts.map(({ file, entry }) => (isFolder(entry) ? photosIn(entry) : file ? [file] : []));
  return (await Promise.all(found)).flat();
}

/** Return the photos in a folder and below it, by name; other files are left out, and so are hidden ones. */
async function photosIn(folder: FileSystemDirectoryEntry): Promise<File[]> {
  const reader = folder.createReader();
  const entries: FileSystemEntry[] = [];
  for (let part: FileSystemEntry[] | null = null; part?.length !== 0;) {
    part = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    entries.push(...part); // browsers give some hundred at a time
  }
  entries.sort((first, second) => first.name.localeCompare(second.name, "en", { numeric: true }));
  const found: File[] = [];
  for (const entry of entries) {
    if (entry.name.startsWith(".")) continue;
    if (isFolder(entry)) found.push(...(await photosIn(entry)));
    else if (PHOTO_NAME.test(entry.name)) {
      found.push(await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
    }
  }
  return found;
}

function isFolder(entry: FileSystemEntry | null): entry is FileSystemDirectoryEntry {
  return entry?.isDirectory ?? false;
}

/**
 * Refuse what is not a photo, or too large, by its header; the pixels are not decoded yet.
 *
 * @throws Error with the reason.
 */
export async function check(file: File): Promise<void> {
  const image = new Image();
  const url = URL.createObjectURL(file);
  try {
    image.src = url;
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = async () => reject(new Error(await unread(file)));
    });
  } finally {
    URL.revokeObjectURL(url);
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  if (file.type === "image/svg+xml" || !width) throw new Error(await unread(file));
  if (Math.max(width, height) > MAX_SIDE || width * height > MAX_PIXELS) {
    const found = `${width.toLocaleString("en")} x ${height.toLocaleString("en")} pixels`;
    const most = `${Math.round(MAX_PIXELS / 1e6)} megapixels and ${MAX_SIDE.toLocaleString("en")} a side`;
    throw new Error(`Found ${found}, expected at most ${most}. Use a smaller copy, or cgan-infer.`);
  }
}

/** Return why a file is not read. */
export async function unread(file: File): Promise<string> {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return "The file was moved, changed or deleted after it was chosen. Choose it again.";
  }
  if (!file.size) return "The file is empty. Choose a photo.";
  if (file.type === "image/svg+xml") return "An SVG drawing is not a photo. Choose a JPEG, PNG or WebP.";
  if (file.type.startsWith("image/") || PHOTO_NAME.test(file.name)) {
    return "This browser cannot read the photo: damaged, or of a format it does not know. Try a JPEG or PNG, or cgan-infer.";
  }
  return "Not a photo. Choose a JPEG, PNG, WebP or another image.";
}

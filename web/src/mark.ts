/** The mark of a photo coloured by a model, in the XMP of a PNG or a JPEG: the packet of infer/photo/mark.py. */

import { VERSION } from "./version.ts";

const SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
const RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";

/** Bytes of a PNG's signature and IHDR. */
const PNG_HEAD = 33;

/** Return the packet for a model of that file name and SHA-256. */
export function packet(model: string, digest: string): string {
  const event =
    `<rdf:li xmlns:rdf="${RDF}" ` +
    'xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#" rdf:parseType="Resource">' +
    `<stEvt:action>edited</stEvt:action><stEvt:softwareAgent>cgan ${VERSION}</stEvt:softwareAgent>` +
    `<stEvt:parameters>coloured by model ${model}, SHA-256 ${digest}</stEvt:parameters></rdf:li>`;
  const description =
    `<rdf:Description xmlns:rdf="${RDF}" rdf:about="" ` +
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/">' +
    `<Iptc4xmpExt:DigitalSourceType>${SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>` +
    `<xmp:CreatorTool>cgan ${VERSION}</xmp:CreatorTool>` +
    `<xmpMM:History><rdf:Seq>${event}</rdf:Seq></xmpMM:History></rdf:Description>`;
  return (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">' +
    `<rdf:RDF xmlns:rdf="${RDF}">${description}</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>`
  );
}

/** Return a PNG or a JPEG without XMP with the mark. */
export async function marked(file: Blob, model: string, digest: string): Promise<Blob> {
  const text = packet(model, digest);
  const [head, part] =
    file.type === "image/png"
      ? [PNG_HEAD, pngChunk("iTXt", `XML:com.adobe.xmp\0\0\0\0\0${text}`)]
      : [await jpegHead(file), jpegSegment(0xe1, `http://ns.adobe.com/xap/1.0/\0${text}`)];
  return new Blob([file.slice(0, head), part, file.slice(head)], { type: file.type });
}

/** Return a chunk: length, type, content, and the CRC-32 of type and content (PNG, section 5.3). */
function pngChunk(type: string, content: string): Uint8Array<ArrayBuffer> {
  const bytes = new TextEncoder().encode(type + content);
  const chunk = new Uint8Array(bytes.length + 8);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, bytes.length - type.length);
  chunk.set(bytes, 4);
  view.setUint32(4 + bytes.length, crc32(bytes));
  return chunk;
}

/** Return the bytes of a JPEG's start, with the segment of JFIF, which comes first. */
async function jpegHead(file: Blob): Promise<number> {
  const view = new DataView(await file.slice(0, 6).arrayBuffer());
  return view.getUint16(2) === 0xffe0 ? 4 + view.getUint16(4) : 2;
}

function jpegSegment(marker: number, content: string): Uint8Array<ArrayBuffer> {
  const bytes = new TextEncoder().encode(content);
  const length = bytes.length + 2;
  return new Uint8Array([0xff, marker, length >> 8, length & 0xff, ...bytes]);
}

function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

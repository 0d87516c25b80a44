/** A photo on the page: picture with a slider between gray and colour, strength, downloads; or why it failed. */

import type { Remote } from "comlink";

import { check, unread } from "./intake.ts";
import type { Found, Studio } from "./studio.ts";

const TYPES = { png: "image/png", jpg: "image/jpeg" } as const;

/** Largest side in pixels of the pictures that are shown: that of the screen, or 2,048. */
const SHOWN_SIDE = Math.min(Math.max(screen.width, screen.height) * devicePixelRatio, 2048);

/** Distance from the window at which a card has its pictures. Those of all cards would not fit into memory. */
const NEAR = "25%";

let count = 0;

export class Card {
  readonly element: HTMLElement;
  private readonly id = count++;
  private readonly observer = new IntersectionObserver((entries) => this.move(entries.at(-1)!.isIntersecting), {
    rootMargin: NEAR,
  });
  private isNear = false;

  constructor(
    private readonly file: File,
    private readonly studio: Remote<Studio>,
    private readonly say: (text: string) => void,
  ) {
    const template = document.querySelector<HTMLTemplateElement>("#card")!;
    this.element = (template.content.cloneNode(true) as DocumentFragment).firstElementChild as HTMLElement;
    this.element.ariaLabel = file.name;
    this.get(".name").textContent = file.name;
    this.get(".remove").setAttribute("aria-label", `Remove ${file.name}`);
    this.get(".remove").addEventListener("click", () => this.remove());
  }

  /** Colour the photo, and show it or the reason why that failed. */
  async color(): Promise<void> {
    if (!this.element.isConnected) return; // removed while it was waiting
    try {
      await check(this.file);
      this.show(await this.studio.color(this.id, this.file, SHOWN_SIDE));
      this.say(`${this.file.name} is coloured.`);
    } catch (error) {
      await this.fail(error);
    }
    if (!this.element.isConnected) void this.studio.forget(this.id); // removed meanwhile
  }

  private show({ width, height, hasAlpha, wasColor }: Found): void {
    this.get(".size").textContent = `${width.toLocaleString("en")} × ${height.toLocaleString("en")}`;
    const picture = this.get(".picture");
    picture.style.setProperty("--width", String(width));
    picture.style.setProperty("--height", String(height));
    this.get(".recolored").hidden = !wasColor;
    this.get(".jpg").hidden = hasAlpha; // JPEG has no transparency
    const divide = this.get<HTMLInputElement>(".divide");
    divide.setAttribute("aria-label", `Gray photo up to this point, then colour: ${this.file.name}`);
    divide.addEventListener("input", () => picture.style.setProperty("--divide", `${divide.value}%`));
    const strength = this.get<HTMLInputElement>(".strength input");
    strength.addEventListener("input", () => {
      this.get(".strength output").textContent = Number(strength.value).toFixed(2);
      void this.paint();
    });
    for (const suffix of ["png", "jpg"] as const) {
      this.get(`.${suffix}`).addEventListener("click", () => void this.save(suffix));
    }
    this.element.classList.add("colored");
    this.observer.observe(this.element);
  }

  /** Take the pictures of a card that comes near the window, and give up those of one that leaves. */
  private move(isNear: boolean): void {
    this.isNear = isNear;
    void this.paint();
  }

  /** Show the photo in gray and with the strength of the slider, again until the slider rests; or nothing, if far. */
  private async paint(): Promise<void> {
    if (this.element.ariaBusy === "true") return;
    this.element.ariaBusy = "true";
    try {
      for (let shown = NaN; this.isNear && shown !== this.strength;) {
        shown = this.strength;
        const { before, after } = await this.studio.pictures(this.id, shown);
        this.draw(".before", before);
        this.draw(".after", after);
      }
      if (!this.isNear) for (const canvas of this.element.querySelectorAll("canvas")) canvas.width = canvas.height = 0;
    } catch (error) {
      await this.fail(error);
    } finally {
      this.element.ariaBusy = "false";
    }
  }

  private async save(suffix: keyof typeof TYPES): Promise<void> {
    const button = this.get<HTMLButtonElement>(`.${suffix}`);
    button.disabled = true;
    this.element.classList.remove("failed");
    try {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await this.studio.save(this.id, this.strength, TYPES[suffix]));
      link.download = `${this.file.name.replace(/\.[^.]*$/, "")}-color.${suffix}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser reads it after this call
    } catch (error) {
      await this.fail(error);
    } finally {
      button.disabled = false;
    }
  }

  private remove(): void {
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    this.observer.disconnect();
    this.element.remove();
    void this.studio.forget(this.id);
    (next?.querySelector<HTMLElement>(".remove") ?? document.querySelector<HTMLElement>("#chooser"))?.focus();
  }

  private async fail(error: unknown): Promise<void> {
    const { name, message } = error as Error;
    const isUnread = name === "InvalidStateError" || name === "EncodingError"; // of createImageBitmap
    this.get(".problem").textContent = isUnread ? await unread(this.file) : message;
    this.element.classList.add("failed");
    this.say(`${this.file.name}: ${this.get(".problem").textContent}`);
  }

  private get strength(): number {
    return Number(this.get<HTMLInputElement>(".strength input").value);
  }

  private draw(selector: string, picture: ImageBitmap): void {
    const canvas = this.get<HTMLCanvasElement>(selector);
    [canvas.width, canvas.height] = [picture.width, picture.height];
    canvas.getContext("bitmaprenderer")!.transferFromImageBitmap(picture);
  }

  private get<Kind extends HTMLElement = HTMLElement>(selector: string): Kind {
    return this.element.querySelector<Kind>(selector)!;
  }
}

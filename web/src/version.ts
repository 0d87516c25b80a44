/** Version of cgan, from pyproject.toml; see vite.config.ts. */

declare const CGAN_VERSION: string;

export const VERSION = CGAN_VERSION;

/** The bytes of a message as text; null at the end of a connection. */
export function text(message: { readonly data: Uint8Array } | null | undefined): string | null {
  return message ? Buffer.from(message.data).toString() : null
}

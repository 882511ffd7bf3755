const emitted = new Set<string>()

/** Emits a warning about a kind of leak, once per process: a program that leaks one descriptor usually leaks thousands. */
export function warnOnce(text: string, fd: number): void {
  if (emitted.has(text)) return
  emitted.add(text)
  process.emitWarning(`${text} (number ${fd})`, {
    code: 'FDPASS_NOT_CLOSED',
    detail: 'Close what you own with close(), closeSync() or `using`. Further ones are not reported.'
  })
}

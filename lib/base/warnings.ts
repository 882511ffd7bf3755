const given = new Set<string>()

/** Warns of a kind of leak once in a process: a program that leaks one descriptor usually leaks thousands. */
export function warnOnce(text: string, fd: number): void {
  if (given.has(text)) return
  given.add(text)
  process.emitWarning(`${text} (number ${fd})`, {
    code: 'FDPASS_NOT_CLOSED',
    detail: 'Close what you own with close(), closeSync() or `using`. Further ones are not reported.'
  })
}

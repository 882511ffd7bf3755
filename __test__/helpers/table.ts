import { closeSync, openSync } from 'node:fs'

const filling: number[] = []

/** Leaves no room in this process's descriptor table. */
export function fill(): void {
  try {
    for (;;) filling.push(openSync('/dev/null', 'r'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EMFILE') throw error
  }
}

/** Makes room again, all that was taken or for so many. */
export function free(count = filling.length): void {
  for (const fd of filling.splice(0, count)) closeSync(fd)
}

import { readFileSync, readdirSync, readlinkSync } from 'node:fs'

/** What a process holds of the system: descriptors by what they are links to, threads by their names (Linux). */
export interface Resources {
  readonly fds: Readonly<Record<string, number>>
  readonly threads: Readonly<Record<string, number>>
}

function tally(names: Iterable<string>): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

/** What the calling process's descriptors are links to; a socket and a pipe without its inode, which is another one each time. */
function links(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const link = readlinkSync(`/proc/self/fd/${fd}`)
      // The folder that is being read is one of them.
      return /^\/proc\/\d+\/fd$/.test(link) ? [] : [link.replace(/^(socket|pipe):\[\d+\]$/, '$1')]
    } catch {
      return [] // it was the folder's, or closed meanwhile by another thread
    }
  })
}

function threadNames(): string[] {
  return readdirSync('/proc/self/task').flatMap((task) => {
    try {
      return [readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim()]
    } catch {
      return [] // it has ended
    }
  })
}

/** What the calling process holds now. */
export function resources(): Resources {
  return { fds: tally(links()), threads: tally(threadNames()) }
}

/** In what two tallies differ, as text: `socket 3 instead of 2`; empty if in nothing. */
export function differences(now: Readonly<Record<string, number>>, before: Readonly<Record<string, number>>): string[] {
  return [...new Set([...Object.keys(now), ...Object.keys(before)])]
    .filter((name) => (now[name] ?? 0) !== (before[name] ?? 0))
    .map((name) => `${name}: ${now[name] ?? 0} instead of ${before[name] ?? 0}`)
}

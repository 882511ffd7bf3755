import type { StoreEntry } from 'fdpass/store'
import type { CliCommand } from '../cli-command.ts'
import { type ClientOptions, withStore, defineClient } from './client.ts'

export const summary = 'Show what is kept'

interface ListOptions extends ClientOptions {
  readonly json?: true
}

export function define(command: CliCommand): void {
  defineClient(command)
    .usage('[OPTION...] SOCKET')
    .description(
      'Show what is kept that you may get or delete, the oldest first: who may get it (r), and replace or delete it (w), as ls(1) ' +
        'has it of files; the user and the group, by number; in how many seconds it goes; what the descriptors are; its name.'
    )
    .option(
      '--json',
      'Show each as a line of JSON: name, kinds, uid, gid, mode as --mode has it, expires in seconds or null.'
    )
    .addExample(
      `
# Show what is kept
fdpass store serve ./list.sock &
echo hello > greeting.txt
fdpass store put --wait 5 --mode 640 ./list.sock greeting greeting.txt
fdpass store put ./list.sock both greeting.txt /dev/null
fdpass store list ./list.sock
kill $!`
    )
    .action(list)
}

async function list(operand: string, options: ListOptions): Promise<void> {
  const entries = await withStore(operand, options, (store, signal) => store.list({ signal }))
  if (options.json === true) for (const entry of entries) process.stdout.write(`${formatJson(entry)}\n`)
  else process.stdout.write(tableOf(entries))
}

function formatJson({ name, kinds, uid, gid, mode, expires }: StoreEntry): string {
  return JSON.stringify({
    name,
    kinds,
    uid,
    gid,
    mode: mode.toString(8).padStart(3, '0'),
    expires: expires === null ? null : expires / 1000
  })
}

const titles = ['MODE', 'UID', 'GID', 'EXPIRES', 'KINDS', 'NAME'] as const
/** Which columns hold numbers. */
const numbers: ReadonlySet<number> = new Set([1, 2, 3])

/** Entries as a table; names, which can have spaces, at its end. */
function tableOf(entries: readonly StoreEntry[]): string {
  const rows = [titles, ...entries.map(cellsOf)]
  const widths = titles.map((_title, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows
    .map((row) => {
      const cells = row.map((cell, column) =>
        numbers.has(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)
      )
      return `${cells.join('  ').trimEnd()}\n`
    })
    .join('')
}

function cellsOf({ name, kinds, uid, gid, mode, expires }: StoreEntry): readonly string[] {
  const goes = expires === null ? 'never' : `${Math.ceil(expires / 1000)}`
  // A store could say anything: this does nothing to a terminal, as ls -q has it.
  return [modeOf(mode), `${uid}`, `${gid}`, goes, kinds.join(), name].map((cell) => cell.replaceAll(/[^ -~]/g, '?'))
}

/** `rw-r-----` */
function modeOf(mode: number): string {
  return [...'rwxrwxrwx'].map((letter, place) => ((mode & (0o400 >> place)) === 0 ? '-' : letter)).join('')
}

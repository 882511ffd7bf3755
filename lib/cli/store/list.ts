import type { StoreEntry } from 'fdpass/store'
import type { CliCommand } from '../cli-command.ts'
import { jsonOf } from '../errors.ts'
import { type ClientOptions, withStore, defineClient } from './client.ts'

export const summary = 'List the entries'

interface ListOptions extends ClientOptions {
  readonly json?: true
}

export function define(command: CliCommand): void {
  defineClient(command)
    .usage('[OPTION...] SOCKET')
    .description(
      'Lists the entries that you may get, replace or delete, oldest first: the permissions to get (r), and to replace or ' +
        'delete (w), in the notation of ls(1); the uid and the gid; the seconds until the entry expires; the kinds of its ' +
        'descriptors; its name.'
    )
    .option(
      '--json',
      'Print each entry as a line of JSON: name, kinds, uid, gid, mode as in --mode, expires in seconds or null.'
    )
    .addExample(
      `
# List the entries of a store
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
  return jsonOf({
    name,
    kinds,
    uid,
    gid,
    mode: mode.toString(8).padStart(3, '0'),
    expires: expires === null ? null : expires / 1000
  })
}

const titles = ['MODE', 'UID', 'GID', 'EXPIRES', 'KINDS', 'NAME'] as const
/** The columns that hold numbers. */
const numbers: ReadonlySet<number> = new Set([1, 2, 3])

/** Returns entries as a table. Names can contain spaces, so they are the last column. */
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
  // The store is not trusted: control characters could affect the terminal, so they are replaced as by ls -q.
  return [modeOf(mode), `${uid}`, `${gid}`, goes, kinds.join(), name].map((cell) => cell.replaceAll(/[^ -~]/g, '?'))
}

/** `rw-r-----` */
function modeOf(mode: number): string {
  return [...'rwxrwxrwx'].map((letter, place) => ((mode & (0o400 >> place)) === 0 ? '-' : letter)).join('')
}

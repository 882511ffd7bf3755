import type { CliCommand } from '../cli-command.ts'
import { usageError } from '../errors.ts'
import { type FileOptions, defineFiles, withFiles } from '../file-arguments.ts'
import { parseIdentity, parseOctal, parseSeconds } from '../option-parsers.ts'
import { type ClientOptions, withStore, defineClient, withEntryName } from './client.ts'

export const summary = 'Store open files under a name'

interface PutOptions extends ClientOptions, FileOptions {
  readonly expires?: number
  readonly mode?: number
  readonly group?: string | number
  readonly replace?: true
}

export function define(command: CliCommand): void {
  defineFiles(
    defineClient(command).argument(
      'NAME',
      "The name of the entry: up to 255 printable ASCII characters except ':' and '\\'."
    )
  )
    .usage('[OPTION...] SOCKET NAME FILE...')
    .description(
      'Opens files, and stores all of them under one name. Clients that get the entry can use each file in the mode in which ' +
        "it was opened, regardless of the file's permissions."
    )
    .option('--expires <SECONDS>', 'Delete the entry after SECONDS (default: never).', parseSeconds)
    .option(
      '--mode <MODE>',
      'Set the permissions to get the entry (read), and to replace or delete it (write), such as 640 (default: 600).',
      parseOctal
    )
    .option(
      '--group <GROUP>',
      'Set the group of the entry, one of yours (default: your effective group).',
      parseIdentity
    )
    .option('--replace', 'Replace an existing entry of this name.')
    .addExample(
      `
# Keep a file for an hour; clients need no permission to open it
fdpass store serve ./put.sock &
echo hello > greeting.txt
fdpass store put --wait 5 --expires 3600 ./put.sock greeting greeting.txt
rm greeting.txt
fdpass store get ./put.sock greeting
kill $!`
    )
    .action(put)
}

async function put(operand: string, name: string, files: readonly string[], options: PutOptions): Promise<void> {
  const { fd: numbers = [], expires, mode, group, replace } = options
  if (files.length + numbers.length === 0) throw usageError('Nothing to store: specify FILE or --fd N')
  if (expires === 0) throw usageError('--expires must be more than 0')
  await withFiles(files, options, (items) => {
    const sources = items.map(({ source }) => source)
    return withStore(operand, options, (store, signal) =>
      withEntryName(name, () => store.put(name, sources, { expires, mode, group, replace, signal }))
    )
  })
}

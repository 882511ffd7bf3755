import type { CliCommand } from '../cli-command.ts'
import { usageError } from '../errors.ts'
import { type FileOptions, defineFiles, withFiles } from '../file-arguments.ts'
import { parseIdentity, parseOctal, parseSeconds } from '../option-parsers.ts'
import { type ClientOptions, withStore, defineClient, withEntryName } from './client.ts'

export const summary = 'Have open files kept under a name'

interface PutOptions extends ClientOptions, FileOptions {
  readonly expires?: number
  readonly mode?: number
  readonly group?: string | number
  readonly replace?: true
}

export function define(command: CliCommand): void {
  defineFiles(defineClient(command).argument('NAME', "Up to 255 characters of ASCII, without ':' and '\\'."))
    .usage('[OPTION...] SOCKET NAME FILE...')
    .description(
      'Open files, and have a store keep all of them under one name. Whoever gets a file can use it as it was opened, with ' +
        'whatever rights.'
    )
    .option(
      '--expires <SECONDS>',
      'How long they are kept (default: until they are deleted, or the store ends).',
      parseSeconds
    )
    .option(
      '--mode <MODE>',
      'Who may get them (read), and replace or delete them (write), as permissions of a file, such as 640 (default: 600).',
      parseOctal
    )
    .option('--group <GROUP>', 'The group that --mode speaks of, one of yours (default: your own).', parseIdentity)
    .option('--replace', 'Have them kept instead of what is kept under this name already.')
    .addExample(
      `
# Keep a file for an hour; who gets it needs no right to open it
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
  if (files.length + numbers.length === 0) throw usageError('There is nothing to keep: name a FILE, or --fd N')
  if (expires === 0) throw usageError('--expires must be more than 0')
  await withFiles(files, options, (items) => {
    const sources = items.map(({ source }) => source)
    return withStore(operand, options, (store, signal) =>
      withEntryName(name, () => store.put(name, sources, { expires, mode, group, replace, signal }))
    )
  })
}

import type { CliCommand } from '../cli-command.ts'
import { FAILED, CliError, reportError } from '../errors.ts'
import { type ClientOptions, withStore, defineClient, withEntryName } from './client.ts'

export const summary = 'Delete entries'

export function define(command: CliCommand): void {
  defineClient(command)
    .usage('[OPTION...] SOCKET NAME...')
    .argument('<NAME...>', 'The names of the entries.')
    .description(
      'Deletes entries of a store, which closes their descriptors. An entry that cannot be deleted is reported, and the next one is deleted.'
    )
    .addExample(
      `
# Delete an entry
fdpass store serve ./delete.sock &
fdpass store put --wait 5 ./delete.sock nothing /dev/null
fdpass store delete ./delete.sock nothing
fdpass store list --json ./delete.sock
kill $!`
    )
    .action(remove)
}

async function remove(operand: string, names: readonly string[], options: ClientOptions): Promise<void> {
  await withStore(operand, options, async (store, signal) => {
    for (const name of names) {
      try {
        await withEntryName(name, () => store.delete(name, { signal }))
      } catch (error) {
        if (!(error instanceof CliError)) throw error
        reportError('store delete', error)
        process.exitCode = Math.max(error.exitCode, Number(process.exitCode ?? FAILED))
      }
    }
  })
}

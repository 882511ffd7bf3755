import type { CliCommand } from '../cli-command.ts'
import * as remove from './delete.ts'
import * as get from './get.ts'
import * as list from './list.ts'
import * as put from './put.ts'
import * as serve from './serve.ts'

const commands = { serve, put, get, list, delete: remove } as const

export function define(command: CliCommand): void {
  command
    .usage('COMMAND [OPTION...] [ARGUMENT...]')
    .description(
      'Keeps descriptors for other processes, by name, across their restarts: open files, listeners, connections, memory. ' +
        'An entry belongs to the user that put it, and has the permissions of a file.'
    )
    .addExample(
      `
# Keep a log open between runs of a program
fdpass store serve ./logs.sock &
fdpass store put --wait 5 --append ./logs.sock log service.log
fdpass store get ./logs.sock log -- sh -c 'echo started >&3'
fdpass store get ./logs.sock log -- sh -c 'echo ended >&3'
cat service.log
kill $!`
    )
  for (const [name, { summary, define: fill }] of Object.entries(commands)) {
    fill(command.command(name).summary(summary))
  }
}

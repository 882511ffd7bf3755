#!/usr/bin/env node
import { constants } from 'node:os'
import { CommanderError } from 'commander'
import type { CliCommand } from './cli-command.ts'
import { FAILED, USAGE, reportError, exitCodeOf } from './errors.ts'
import { signalErrorOf } from './signals.ts'
import { buildProgram } from './command-line.ts'

const given = process.argv.slice(2)
const args = given[0] === 'help' && given[1] !== undefined ? [...given.slice(1), '--help'] : given
const [name = ''] = args
/** The command that error messages name. */
let about = name

// The exit code that a shell reports after SIGPIPE. Writing to a socket may fail with ECONNRESET instead.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE' || error.code === 'ECONNRESET') process.exit(128 + constants.signals.SIGPIPE)
  reportError(`${about}: write error`, error)
  process.exit(FAILED)
})

// A closed standard error does not end the command.
process.stderr.on('error', () => {})

function end(error: unknown): void {
  const signalError = signalErrorOf(error)
  if (signalError !== undefined) {
    process.kill(process.pid, signalError.signal)
  } else if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : USAGE // commander has printed the message
  } else {
    reportError(about, error)
    process.exitCode = exitCodeOf(error)
  }
}

process.on('uncaughtException', (error) => {
  end(error)
  process.exit()
})

try {
  const root = await buildProgram((command) => command === name)
  root.hook('preAction', (_root, command) => void (about = (command as CliCommand).fullName))
  for (const command of root.descendants) {
    command.configureOutput({
      outputError: (text, write) => {
        const { fullName } = command
        const [problem, ...hints] = text.trim().split('\n')
        // commander also writes the help of a command line without a command here.
        if (!problem!.startsWith('error: ')) return write(text)
        const hint = hints.length > 0 ? ` ${hints.join(' ')}` : ''
        const where = fullName === '' ? '' : `${fullName}: `
        write(`fdpass: ${where}${problem!.slice('error: '.length)}${hint}\n`)
        write(`Try '${`fdpass ${fullName}`.trim()} --help'.\n`)
      }
    })
  }
  await root.parseAsync(args, { from: 'user' })
} catch (error) {
  end(error)
}

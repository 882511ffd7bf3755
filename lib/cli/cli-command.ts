import { Command } from 'commander'

/** Exit codes, and what they mean. */
type ExitCodes = Readonly<Record<number, string>>

/** Those of all commands. */
const common: ExitCodes = {
  0: 'Done.',
  1: 'Something has failed; standard error says what.',
  2: 'The command line cannot be understood.',
  141: 'Nobody reads standard output any more (128 and the number of SIGPIPE).'
}

/** A command with what commander has no place for: exit codes; and examples, which are scripts that work as they are printed. */
export class CliCommand extends Command {
  readonly examples: string[] = []
  exitCodes: ExitCodes = common

  override createCommand(name?: string): CliCommand {
    return new CliCommand(name)
  }

  /** Adds a script, whose first line is a comment that says what it does. */
  example(script: string): this {
    this.examples.push(script.trim())
    return this
  }

  /** Adds exit codes of this command's own. */
  alsoExits(codes: ExitCodes): this {
    this.exitCodes = { ...this.exitCodes, ...codes }
    return this
  }
}

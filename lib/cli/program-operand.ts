import { misused } from './failure.ts'

/** Throws unless a program among the operands comes right after `--`: what is a program, and what its options, is never guessed. */
export function checkProgram(program: readonly string[]): void {
  if (program.length > 0 && process.argv.at(-program.length - 1) !== '--') {
    throw misused(`A program comes after --, and nothing else may: '${program[0]}'`)
  }
}

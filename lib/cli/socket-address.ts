/** The address that an operand names: `@name` is abstract, as in ss(8) and systemd; `./@name` is a path. */
export function addressOf(operand: string): string {
  return operand.replace(/^@/, '\0')
}

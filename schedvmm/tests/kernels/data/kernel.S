	.section .text
	.globl _start
_start:	hlt
	jmp _start
	.section .rodata
	.asciz "Linux version 6.12.1-made (tester) #1 SMP"
